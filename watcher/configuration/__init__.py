"""What is watched and how: the options, the settings file, the settings of a folder and of the daemon."""
