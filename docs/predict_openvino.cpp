// Boxes of a detector exported --with preprocess postprocess, in OpenVINO:
//   predict_openvino cells.onnx image.ppm     (also cells.xml; the image in the size that the file takes)

#include <openvino/openvino.hpp>

#include <cmath>
#include <fstream>
#include <iostream>

int main(int argc, char** argv) try {
  if (argc != 3) throw std::runtime_error("usage: predict_openvino FILE IMAGE.ppm");
  ov::CompiledModel model = ov::Core().compile_model(argv[1], "CPU");
  ov::Tensor input(ov::element::u8, model.input("pixels").get_shape());  // 1, 3, height, width
  const size_t area = input.get_shape()[2] * input.get_shape()[3];

  std::ifstream file(argv[2], std::ios::binary);
  std::string kind;
  size_t width = 0, height = 0, most = 0;
  file >> kind >> width >> height >> most;
  file.get();
  std::vector<uint8_t> rgb(3 * area);
  const bool fits = kind == "P6" && most == 255 && height == input.get_shape()[2] && width == input.get_shape()[3];
  if (!fits || !file.read(reinterpret_cast<char*>(rgb.data()), rgb.size())) {
    throw std::runtime_error("expected a binary PPM of the size that the file takes");
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
