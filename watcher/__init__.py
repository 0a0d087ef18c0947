"""The daemon: watches acquisition folders and corrects what arrives."""

if __name__ != "defocus.watcher":
    raise ImportError("watcher is a part of defocus: pip install the checkout, and import defocus.watcher")
