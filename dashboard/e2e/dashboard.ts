export class Dashboard {}; export const VIEWS=[]
