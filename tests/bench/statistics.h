#pragma once

#include <vector>

namespace ttt {

// Of some measurements of one thing.
struct Summary {
  double median = 0;
  double least = 0;
  double greatest = 0;
  // Half the distance of the quartiles, as a share of the median.
  double spread = 0;
};

// `values` is not empty. Quantiles lie between two values where they must.
Summary Summarize(std::vector<double> values);

}  // namespace ttt
