"""For whoever starts the daemon with a double click: a folder is asked for, and the page opens."""
