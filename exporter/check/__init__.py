"""``forewarn check``: tries everything that the settings name, and tells what works and how to mend what does not."""
