"""Read (untrusted) conda-pack archives, and write them."""
