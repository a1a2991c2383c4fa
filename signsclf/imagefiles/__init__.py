"""What an image file is: its kind, and pixels of formats and depths that Pillow reads wrongly or not at all."""
