// Asks a detector that --mode=export wrote as ONNX about photographs, with ONNX Runtime alone.
//
//   g++ -std=c++17 client.cpp -I /usr/include/onnxruntime -l onnxruntime -o client
//   ./client part.onnx photograph.ppm another.ppm
//
// Photographs are PPM files of 8 bits, of any size: convert photograph.png photograph.ppm
#include <onnxruntime_cxx_api.h>

#include <cstdint>
#include <fstream>
#include <iostream>
#include <stdexcept>
#include <string>
#include <vector>

int main(int count, char** names) try {
  if (count < 3) throw std::runtime_error("usage: client part.onnx photograph.ppm...");
  Ort::Env environment(ORT_LOGGING_LEVEL_ERROR);
  Ort::Session session(environment, names[1], Ort::SessionOptions());
  auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
  const char *inputs[] = {"images"}, *outputs[] = {"score", "decision"};
  for (int i = 2; i < count; ++i) {
    std::ifstream file(names[i], std::ios::binary);
    std::string kind;
    int64_t width = 0, height = 0, white = 0;
    file >> kind >> width >> height >> white;
    if (kind != "P6" || width < 1 || height < 1 || white != 255 || file.get() == EOF)
      throw std::runtime_error(std::string(names[i]) + ": not a PPM file of 8 bits");
    std::vector<uint8_t> pixels(3 * width * height);
    if (!file.read(reinterpret_cast<char*>(pixels.data()), pixels.size()))
      throw std::runtime_error(std::string(names[i]) + ": ends too early");
    const int64_t shape[] = {1, height, width, 3};
    auto image = Ort::Value::CreateTensor<uint8_t>(memory, pixels.data(), pixels.size(), shape, 4);
    auto found = session.Run(Ort::RunOptions(), inputs, &image, 1, outputs, 2);
    std::cout << names[i] << ": " << (*found[1].GetTensorData<bool>() ? "anomalous " : "normal ")
              << *found[0].GetTensorData<float>() << std::endl;
  }
} catch (const std::exception& error) {
  std::cerr << error.what() << std::endl;
  return 1;
}
