#pragma once
// Reads CSV (RFC 4180: quoted fields, doubled quotes, line breaks within quotes, CR LF or LF, an optional byte-order
// mark) from a file that nobody vouches for. Strict: what the RFC does not allow is an error that names the line.
// The packaged C++ readers either fix the columns when compiled or leave quotes to the caller, hence our own.

#include <string>
#include <string_view>
#include <vector>

namespace capstan::scaling {

struct Csv {
  std::vector<std::string> header;
  std::vector<std::vector<std::string>> rows;  ///< each as long as the header
  std::vector<size_t> lines;                   ///< on which each row begins, from 1
};

/// `name` is for messages. Limits: 64 MiB, 4096 columns, 1 MiB a field.
Csv parse_csv(std::string_view text, const std::string& name);
Csv read_csv(const std::string& path);

}  // namespace capstan::scaling
