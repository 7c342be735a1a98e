"""One table row per architecture, proved at load; weights under the field's names."""
