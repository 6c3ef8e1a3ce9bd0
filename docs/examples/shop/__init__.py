"""An app of your own, protected: ``celery -A shop.tasks worker``."""
