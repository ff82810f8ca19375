"""Alert and recording rules: the numbers become warnings here. ``forewarn rules`` renders them."""
