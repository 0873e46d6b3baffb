"""The public Python API; `import snapper` exposes it, and docs/api.md documents it with examples.

Snapshots are named as on the command line, `ENV` or `ENV@SNAPSHOT`. The settings (settings file and SNAPPER_*
variables) supply defaults. Functions return frozen results and raise subclasses of SnapperError. Each module imports
only what its functions need, so that commands start quickly.
"""
