"""The HTTP service: :func:`service.app.create_app` builds it, ``recsys serve`` runs it."""
