"""AU intensities from a photograph by analysis through synthesis (GE-Net)."""
