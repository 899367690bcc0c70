"""One file a resource; each holds a ``router`` that :func:`service.app.create_app` mounts."""
