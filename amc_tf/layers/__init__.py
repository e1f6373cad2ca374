"""One rule per kind of layer: how channels pass, which weights shrink with them, what the layer computes."""
