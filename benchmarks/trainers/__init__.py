"""The same tasks with batiste and with the trainers of other libraries."""
