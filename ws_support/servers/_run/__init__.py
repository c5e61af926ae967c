"""What all servers share when `manage.py runasgi` runs them."""
