"""An asyncio client for Celery workers over Redis, without Celery installed."""
