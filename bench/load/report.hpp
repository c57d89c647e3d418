// What a run has found out, in words and as JSON. README.md says what each figure means.
//
// Nothing here is a rate unless every byte was right and every connection ended as it should: a server that
// loses one connection in a thousand may well be faster than one that does not.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "bench/load/options.hpp"
#include "bench/load/result.hpp"
#include "bench/load/verify.hpp"

namespace load {

/// "echo on 127.0.0.1:9001: 128 connections, depth 1, 64 bytes, closed loop"
std::string headline(const Options& options, const Target& target);

/// Several lines. Everything that is right goes to stdout, the sentence about errors (empty if there were
/// none) to stderr.
std::string to_text(const Options& options, const Target& target, const Result& result);
std::string error_text(const Result& result);

/// One object without a line end.
std::string to_json(const Options& options, const Target& target, const Result& result);

/// The same for a run that was ended by a wrong answer.
std::string to_text(const Target& target, const WrongAnswer& wrong);
std::string to_json(const Options& options, const Target& target, const WrongAnswer& wrong);

/// "162,469"
std::string grouped(std::uint64_t number);

/// With its quotes.
std::string json_string(std::string_view text);
/// Short, and never inf or nan, which JSON does not have: those are null.
std::string json_number(double value);

}  // namespace load
