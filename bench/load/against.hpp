// Two servers in turns. ratio.hpp says what is computed, this runs it and prints it.
#pragma once

#include "bench/load/options.hpp"

namespace load {

/// Runs options.blocks times A B B A and prints the ratios. True if every run was in order; a run that was
/// not ends the comparison. Throws WrongAnswer, whose target is then in `guilty`.
bool compare(const Options& options, const Target*& guilty);

}  // namespace load
