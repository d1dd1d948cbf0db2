#pragma once
// Members of a config.json that no family's table holds, changed without a touch to the others: the type of the weights
// and the ids of special tokens.

#include <boost/json/fwd.hpp>
#include <string>

namespace capstan {

/// Indented as transformers does it.
std::string pretty_json(const boost::json::value& value);

/// The same config, saying that the weights are of that type (torch's word), where it says of which they are.
std::string with_dtype(const std::string& config, const std::string& dtype);
/// With the ids of special tokens that another one states: where a text begins and ends, and what pads it.
std::string with_token_ids_of(const std::string& config, const std::string& other);

}  // namespace capstan
