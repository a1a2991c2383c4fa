"""Reports as files: plots, image sheets, tables, the HTML report."""
