#pragma once
// A study as JSON: every number of the text report in full precision, and the residuals row by row. Numbers that are
// not finite (an open end of an interval) are null.

#include <string>

#include "cluster/scaling/study.h"

namespace capstan::scaling {

std::string study_json(const Study& study, const std::string& table_name);

}  // namespace capstan::scaling
