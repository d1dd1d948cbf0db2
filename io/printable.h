#pragma once
// What a file says, made fit for a message: a name in somebody's file may hold escape sequences that a terminal obeys,
// line ends that forge a message of their own, or a zero byte that cuts it short. Rule for callers: whatever comes from
// a file that nobody vouches for passes here before it stands in an Error or a notice.

#include <string>
#include <string_view>

namespace capstan {

/// At most `most` bytes of it (then "..."), with '?' for each control character and each byte that is no UTF-8.
std::string printable(std::string_view text, size_t most = 80);

/// The same for a whole message: lines stay lines, nothing is cut.
std::string without_controls(std::string_view text);

}  // namespace capstan
