"""What people look at: failure sections, differences, the receipt."""
