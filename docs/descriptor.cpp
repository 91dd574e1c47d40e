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
#include <stdexcept>
#include <vector>

int main(int argc, char** argv) {
  if (argc != 3) {
    std::cerr << "usage: describe descriptor.pt patches.raw\n";
    return 2;
  }
  try {
    constexpr int64_t side = 32;
    std::ifstream file(argv[2], std::ios::binary);
    if (!file) throw std::runtime_error("cannot read the patches");
    std::vector<uint8_t> bytes((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
    const auto count = static_cast<int64_t>(bytes.size()) / (side * side);
    if (count * side * side != static_cast<int64_t>(bytes.size())) {
      throw std::runtime_error("expected patches of 32x32 bytes");
    }
    c10::InferenceMode guard;
    auto model = torch::jit::load(argv[1]);
    auto patches = torch::from_blob(bytes.data(), {count, 1, side, side}, torch::kUInt8).to(torch::kFloat32);
    auto descriptors = model.forward({patches}).toTensor().contiguous();
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
