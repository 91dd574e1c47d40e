"""From images to a network's input and from its output to answers, on torch and torchvision alone."""
