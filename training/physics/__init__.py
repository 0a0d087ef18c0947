"""Physics: the microscope and the specimens that are simulated."""
