"""The napari plugin of lsfm_core: napari.yaml lists what it adds to napari."""
