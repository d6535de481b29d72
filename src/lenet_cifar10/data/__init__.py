"""From a URL to arrays: download, archive, arrays, and generated images."""
