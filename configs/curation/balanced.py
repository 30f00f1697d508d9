"""Balanced sampling without seeds (Vo et al., arXiv 2405.15613): no duplicates, hierarchical k-means with resampling, and as many images of every concept as there are.

Command:  python -m jaxssl.curate run --config configs/curation/balanced.py --out DIR --set pool=/images weights=W clusters=1000 above=100,10 target=50000
Hardware: any. Hours: not measured. The same command resumes.
Expected: not measured. The paper clusters 743 million images into 10 million, 500,000, 50,000 and 10,000.
"""
CURATION = {
    "needs": {"pool": "the images to curate: a folder, a zip, …", "weights": "an encoder: a workdir, an export or a file of weights", "clusters": "clusters of the lowest level",
              "above": "clusters of the levels above it, with commas: 100,10", "target": "images that are wanted"},
    "may": {"reference": "images that nothing of the training set may be a copy of"},
    "steps": [
        ["embed", "{pool}", "--weights", "{weights}"],
        ["calibrate", "--weights", "{weights}"],
        ["dedup", "self", "--threshold", "auto"],
        ["embed", "{reference}", "--weights", "{weights}", "--name", "reference"],
        ["dedup", "against", "reference", "--threshold", "auto"],
        ["kmeans", "--clusters", "{clusters}", "--levels", "{above}", "--metric", "euclidean", "--rounds", "10", "--sample", "10"],
        ["sample", "--target", "{target}"],
        ["report"],
        ["manifest"],
    ],
}
