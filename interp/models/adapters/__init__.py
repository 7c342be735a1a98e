"""One table row per architecture, proved before use; weights under the field's names."""
