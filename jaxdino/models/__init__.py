"""The backbones, by their published names: `registry.get("dinov3_vits16")`."""
