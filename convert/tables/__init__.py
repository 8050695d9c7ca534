"""One table a family and layout: data for `convert.table`."""
