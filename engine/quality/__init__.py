"""Quality: how sharp a plane is, and whether what was restored explains what was recorded."""
