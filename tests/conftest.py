"""Shared by all tests of the collection."""

from ansible.plugins.loader import init_plugin_loader

# Before any test imports a module of the collection: Ansible finds no plugin of one that Python has imported
# by itself.
init_plugin_loader()
