// Boxes of a detector exported --with preprocess postprocess, in OpenVINO:
//   predict_openvino cells.onnx image.ppm     (also cells.xml; the image in the size that the file takes)

#include <openvino/openvino.hpp>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <iostream>
#include <limits>

// A number of the header of a PPM file, after spaces and comments, which begin with # and end with their line.
size_t next_number(std::istream& file) {
  while (file >> std::ws && file.peek() == '#') file.ignore(std::numeric_limits<std::streamsize>::max(), '\n');
  size_t number = 0;
  file >> number;
  return number;
}

bool has(const std::vector<ov::Output<const ov::Node>>& ports, const std::string& name) {
  return std::any_of(ports.begin(), ports.end(), [&](const auto& port) { return port.get_names().count(name) > 0; });
}

ov::CompiledModel open(const std::string& path) try {
  // float32 as in Python: OpenVINO's own choice is bfloat16 where the CPU has it
  return ov::Core().compile_model(path, "CPU", ov::hint::inference_precision(ov::element::f32));
} catch (const ov::Exception&) {  // of several lines, on OpenVINO's own sources
  throw std::runtime_error("cannot open " + path + ": it is not a network that OpenVINO reads");
}

int main(int argc, char** argv) try {
  if (argc != 3) throw std::runtime_error("usage: predict_openvino FILE IMAGE.ppm");
  for (const char* path : {argv[1], argv[2]}) {
    if (!std::ifstream(path, std::ios::binary)) throw std::runtime_error("cannot open " + std::string(path));
  }
  ov::CompiledModel model = open(argv[1]);
  const bool prepares = has(model.inputs(), "pixels") && model.input("pixels").get_partial_shape().is_static();
  if (!prepares || !has(model.outputs(), "boxes") || model.input("pixels").get_shape()[0] != 1) {
    throw std::runtime_error(std::string(argv[1]) +
                             ": expected a detector for one image of fixed size, exported --with preprocess postprocess");
  }
  ov::Tensor input(ov::element::u8, model.input("pixels").get_shape());  // 1, 3, height, width
  const size_t area = input.get_shape()[2] * input.get_shape()[3];

  std::ifstream file(argv[2], std::ios::binary);
  const bool binary = file.get() == 'P' && file.get() == '6';
  const size_t width = next_number(file), height = next_number(file), most = next_number(file);
  file.get();
  std::vector<uint8_t> rgb(3 * area);
  const bool fits = binary && most == 255 && height == input.get_shape()[2] && width == input.get_shape()[3];
  if (!fits || !file.read(reinterpret_cast<char*>(rgb.data()), rgb.size())) {
    throw std::runtime_error(std::string(argv[2]) + ": expected a binary PPM of the size that the file takes");
  }
  for (size_t i = 0; i < rgb.size(); ++i) input.data<uint8_t>()[i % 3 * area + i / 3] = rgb[i];

  ov::InferRequest request = model.create_infer_request();
  request.set_input_tensor(input);
  request.infer();
  const ov::Tensor boxes = request.get_tensor("boxes"), scores = request.get_tensor("scores");
  const int64_t* labels = request.get_tensor("labels").data<int64_t>();
  if (std::isnan(scores.data<float>()[0])) throw std::runtime_error("the network's output holds NaN or infinity");
  for (size_t i = 0; i < scores.get_size() && scores.data<float>()[i] >= 0.3f; ++i) {
    std::cout << labels[i] << ' ' << scores.data<float>()[i];
    for (size_t k = 0; k < 4; ++k) std::cout << ' ' << boxes.data<float>()[4 * i + k];
    std::cout << '\n';
  }
} catch (const std::exception& error) {
  std::cerr << error.what() << '\n';
  return 1;
}
