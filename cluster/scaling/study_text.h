#pragma once
// A study in words, for a person at a terminal: what was fitted, whether to believe it, what it says, what to do.

#include <string>

#include "cluster/scaling/study.h"

namespace capstan::scaling {

std::string study_text(const Study& study, const std::string& table_name);

/// 1.2e9 as "1.20 B"; for parameters and tokens.
std::string count_text(double count);

}  // namespace capstan::scaling
