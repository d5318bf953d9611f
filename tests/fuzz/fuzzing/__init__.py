"""What the fuzzers and the differential tests share: readers, valid messages, mutations, and the two campaigns."""
