// Describes 32x32 grey patches with a descriptor exported to TorchScript.
//
//   describe descriptor.pt patches.raw > descriptors.txt
//
// patches.raw: bytes, 1024 per patch, row by row. Output: one line of 128 numbers per patch.

#include <torch/script.h>

#include <cstdint>
#include <exception>
#include <fstream>
#include <iostream>
#include <iterator>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

torch::jit::Module open(const std::string& path, torch::jit::ExtraFilesMap& files) try {
  return torch::jit::load(path, std::nullopt, files);
} catch (const std::exception&) {  // what() has several lines, libtorch's own stack among them
  throw std::runtime_error("cannot open " + path + ": it is not a network that libtorch reads");
}

torch::Tensor describe(torch::jit::Module& model, const torch::Tensor& patches, const std::string& path) try {
  return model.forward({patches}).toTensor().contiguous();
} catch (const std::exception&) {
  throw std::runtime_error(path + ": the network fails on patches of 32x32 bytes");
}

int main(int argc, char** argv) {
  if (argc != 3) {
    std::cerr << "usage: describe descriptor.pt patches.raw\n";
    return 2;
  }
  try {
    constexpr int64_t side = 32;
    for (const char* path : {argv[1], argv[2]}) {
      std::ifstream file(path, std::ios::binary);
      file.peek();
      if (!file.is_open() || file.bad()) throw std::runtime_error("cannot open " + std::string(path));
    }
    std::ifstream file(argv[2], std::ios::binary);
    std::vector<uint8_t> bytes((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
    const auto count = static_cast<int64_t>(bytes.size()) / (side * side);
    if (count * side * side != static_cast<int64_t>(bytes.size())) {
      throw std::runtime_error("expected patches of 32x32 bytes");
    }
    c10::InferenceMode guard;
    torch::jit::ExtraFilesMap files{{"hardnet_suite.json", ""}};  // what the file says of itself
    auto model = open(argv[1], files);
    if (files["hardnet_suite.json"].find("\"outputs\": [\"descriptors\"]") == std::string::npos) {
      throw std::runtime_error(std::string(argv[1]) + ": expected a descriptor exported to TorchScript");
    }
    auto patches = torch::from_blob(bytes.data(), {count, 1, side, side}, torch::kUInt8).to(torch::kFloat32);
    auto descriptors = describe(model, patches, argv[1]);
    const float* value = descriptors.data_ptr<float>();
    for (int64_t row = 0; row < descriptors.size(0); ++row) {
      for (int64_t column = 0; column < descriptors.size(1); ++column) {
        std::cout << (column ? " " : "") << *value++;
      }
      std::cout << '\n';
    }
  } catch (const std::exception& error) {
    std::cerr << error.what() << '\n';
    return 1;
  }
}
