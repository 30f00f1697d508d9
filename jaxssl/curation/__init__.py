"""Data curation: from a heap of images to a training set, in steps that each keep a table (Oquab et al., arXiv 2304.07193, appendix A; Vo et al., arXiv 2405.15613)."""
