"""What a pretrained backbone is worth for detection and instance segmentation."""
