"""The contract between control plane, node and guest: frozen values and codecs, no behaviour."""
