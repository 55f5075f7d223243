"""A float and a quantized model side by side: what they make, and how far their outputs differ."""
