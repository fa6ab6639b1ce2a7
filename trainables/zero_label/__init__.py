"""Zero-label semantic segmentation by self-training: SPNet and STRICT. See docs/zero_label.md."""
