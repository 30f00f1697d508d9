"""DINOv2's curation (arXiv 2304.07193, appendix A): duplicates among the images, what leaks from test sets, then the images near curated seeds.

Command:  python -m jaxssl.curate run --config configs/curation/dinov2.py --out DIR --set pool=/images weights=W copies=C reference=/test/images seeds=/curated/images
Hardware: any. Hours: not measured. The same command resumes.
Expected: the paper went from 1.3 billion images to 744 million after both dedups and to 142 million with its seeds. Its thresholds (.6 and .45) are of the copy-detection
          encoder SSCD; here they come from `calibrate`, for whatever encoder `copies` is.
"""
CURATION = {
    "needs": {"pool": "the images to curate: a folder, a zip, …", "weights": "an encoder whose cosines say what is alike: a workdir, an export or a file of weights",
              "copies": "an encoder whose cosines say what is a copy (the same as weights, if there is no other)"},
    "may": {"reference": "images that nothing of the training set may be a copy of", "seeds": "curated images"},
    "steps": [
        ["embed", "{pool}", "--weights", "{copies}", "--features", "copies"],
        ["calibrate", "--weights", "{copies}", "--features", "copies"],
        ["dedup", "self", "--features", "copies", "--k", "64", "--threshold", "auto"],
        ["embed", "{reference}", "--weights", "{copies}", "--features", "copies", "--name", "reference"],
        ["dedup", "against", "reference", "--features", "copies", "--threshold", "auto", "--drop", "component"],
        ["embed", "{pool}", "--weights", "{weights}"],
        ["embed", "{seeds}", "--weights", "{weights}", "--name", "seeds"],
        ["retrieve", "samples", "seeds", "--n", "4"],
        ["report"],
        ["manifest"],
    ],
}
