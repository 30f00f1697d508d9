"""From a set of images to a config for it, with reasons: what is there (`look`), what follows from it (`rules`), and the file that says so (`written`)."""
