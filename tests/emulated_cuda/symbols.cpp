// What this program's own symbol table tells: names of kernels for messages, and where the static __shared__ variables
// of device code (thread-local here) lie, so that each block finds them full of NaN.

#include <cxxabi.h>
#include <elf.h>
#include <link.h>

#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <map>
#include <utility>
#include <vector>

#include "emulated_cuda.h"

namespace emulated_cuda {
namespace {

struct Symbols {
  std::map<uint64_t, std::string> functions;          // address in the file -> mangled name
  std::vector<std::pair<uint64_t, uint64_t>> shared;  // offset in the thread-local block, size
};

/// Local variables of functions of the device floor: _ZZ <function> <name>.
bool is_shared_variable(const char* name) { return std::strncmp(name, "_ZZN7capstan7kernels4cuda", 25) == 0; }

Symbols read_symbols() {
  std::ifstream file("/proc/self/exe", std::ios::binary);
  const std::vector<char> bytes((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  Symbols found;
  if (bytes.size() < sizeof(Elf64_Ehdr)) return found;
  const auto* header = reinterpret_cast<const Elf64_Ehdr*>(bytes.data());
  const auto* sections = reinterpret_cast<const Elf64_Shdr*>(bytes.data() + header->e_shoff);
  for (int i = 0; i < header->e_shnum; ++i) {
    if (sections[i].sh_type != SHT_SYMTAB) continue;
    const auto* symbols = reinterpret_cast<const Elf64_Sym*>(bytes.data() + sections[i].sh_offset);
    const char* names = bytes.data() + sections[sections[i].sh_link].sh_offset;
    for (size_t k = 0; k < sections[i].sh_size / sizeof(Elf64_Sym); ++k) {
      const char* name = names + symbols[k].st_name;
      const int type = ELF64_ST_TYPE(symbols[k].st_info);
      if (type == STT_FUNC && symbols[k].st_shndx != SHN_UNDEF) found.functions.emplace(symbols[k].st_value, name);
      if (type == STT_TLS && is_shared_variable(name))
        found.shared.emplace_back(symbols[k].st_value, symbols[k].st_size);
    }
  }
  return found;
}

const Symbols& symbols() {
  static const Symbols all = read_symbols();
  return all;
}

/// The program itself is the first object told.
dl_phdr_info program() {
  dl_phdr_info found = {};
  dl_iterate_phdr(
      [](dl_phdr_info* info, size_t, void* to) {
        *static_cast<dl_phdr_info*>(to) = *info;
        return 1;
      },
      &found);
  return found;
}

}  // namespace

std::string name_of_function(const void* function) {
  static const uint64_t base = program().dlpi_addr;
  const auto found = symbols().functions.find(reinterpret_cast<uint64_t>(function) - base);
  if (found == symbols().functions.end()) return "(no name)";
  int wrong = 0;
  char* text = abi::__cxa_demangle(found->second.c_str(), nullptr, nullptr, &wrong);
  std::string name = wrong == 0 ? text : found->second;
  std::free(text);
  return name;
}

void poison_static_shared() {
  static thread_local char* const block = static_cast<char*>(program().dlpi_tls_data);
  if (block == nullptr) return;
  for (const auto& [offset, size] : symbols().shared) std::memset(block + offset, 0xff, size);
}

}  // namespace emulated_cuda
