"""bootplane: verified boot images, from a signed boot source to bare machines.

The import package is this folder of links: ``core`` (Cython, libc only), ``dataplane`` (Python that feeds core) and
``control`` (regions, API, command line). Imports go one way: control -> dataplane -> core.
"""

__version__ = "0.1.0"
