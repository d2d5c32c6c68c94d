"""The checks of deploy/check, one module per part."""
