"""Running beside the microscope: as a service, and at a low priority."""
