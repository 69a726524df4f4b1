"""What a mix changes in a base: computed once, kept between pictures, swapped in for a step."""
