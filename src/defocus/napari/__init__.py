"""The napari plugin: a widget that restores a layer, and a reader that shows what an output says of its making."""
